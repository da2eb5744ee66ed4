"""What traces say: ledger, attribution, deliveries, scaling, figures, the report, the exports.

Reads trace directories and nothing else: no kernel, no ``probes``, no ``tracer``, no ``servers``.
"""
