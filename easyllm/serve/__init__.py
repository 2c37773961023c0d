"""model -> an OpenAI and TGI endpoint, and the terminal chat that talks to it."""
