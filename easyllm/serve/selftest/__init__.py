"""A running server, ours or somebody else's -> which parts of the OpenAI and TGI contract it keeps."""
