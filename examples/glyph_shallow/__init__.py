"""A model whose LLM does the seeing: three encoder blocks without a view of the whole, twelve LLM layers."""
