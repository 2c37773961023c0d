"""Token ids in, token ids out: transformers in this process, llama.cpp, or a server behind ours."""
