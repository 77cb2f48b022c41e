"""The page that a browser shows for a model behind the OpenAI-style API."""
