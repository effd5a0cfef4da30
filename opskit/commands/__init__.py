"""The command line's verbs, one module for each group of them."""
