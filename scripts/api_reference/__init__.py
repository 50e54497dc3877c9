"""docs/api.md, made of the code: the Python client by griffe, the HTTP routes by the gateway's OpenAPI document."""
