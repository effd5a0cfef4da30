"""Notebooks that a person runs in JupyterLab: the copy to work in, the server, and what is noted of the work."""
