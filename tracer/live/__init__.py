"""What is computed while a recording runs: the sums of ``--summary``, and the pictures of ``top``.

The same analysis as of a trace, on the records as they come: beside the verbs, the only part of
``tracer`` that may use ``analysis``, and only when it runs.
"""
