"""Which checkpoint tensors hold the module that an adapter names? Names and shapes, no data.

What transformers knows of its model types lies in models.json, generated from its sources, so that
a merge imports no transformers. Names are matched as they are, or with the base-model prefix put on
or taken off; never by shape, never by an end that two tensors share. Only where that finds nothing
does `converted` ask transformers how it turns the checkpoint into its model: which blocks of which
tensors (`pieces`) each parameter is.
"""
