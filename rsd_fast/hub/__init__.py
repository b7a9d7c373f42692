"""Models on the Hugging Face hub, with huggingface_hub (the extra `hub`): `fetch` and `push`."""
