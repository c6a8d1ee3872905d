"""A fuzzer of all that is public in gapbound: ``python -m analysis.fuzz --calls 100000``.

``surface`` lists every public function, class, method and property, ``values`` makes arguments of a name (ordinary,
extreme or wrong), ``judge`` calls and says what came of it, ``__main__`` runs many calls in processes of their own.
Call number k of a seed is always the same call.
"""
