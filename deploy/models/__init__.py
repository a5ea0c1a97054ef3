"""The model store: model folders in S3, under a name that is their content, and in a cache on the node.

`publish` writes them, `fetch` brings them to where a service looks for its models, before it starts.
"""
