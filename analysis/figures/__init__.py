"""Figures of one style: each module draws one from frames or traces, as a matplotlib Figure.

Nothing here measures; nothing here touches pyplot's global state.
"""
