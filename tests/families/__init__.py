"""Model families: tiny random models of each, merged on disk and held against PEFT in float64.

configs            sizes
text seeing sparse one row per family: language, images and sounds, experts
recipe             how base and adapter are made, PEFT's merge
old                adapters as transformers 4 named them
made               both merges of one family, and what must then hold
test_table         every layout that transformers writes is in the tables
test_dense         every family without experts, in every layout of its checkpoints
test_sparse        every family with experts
test_old_adapters  old names on old and new layouts
test_tied          tied embeddings of which one is adapted, or each otherwise
test_heads         classifiers on bases without a pooler
test_variants      DoRA, biases, saved modules, other methods where tensors are not modules
test_peft          where PEFT itself is wrong, with the proof
"""
