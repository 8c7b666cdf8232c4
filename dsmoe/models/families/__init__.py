"""One file a model family, named by its `model_type` in transformers: where its layers keep their router."""
