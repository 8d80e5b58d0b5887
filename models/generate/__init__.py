"""The models of this project, made anew from public data: one module a model, `tables` for the data."""
