"""The model store: model folders in S3, under a name that is their content, and in a cache on the node.

`publish` writes them, `fetch` brings them to where a service looks for its models, before it starts. Why it is so:
docs/decisions/0025-models-in-s3.md.
"""
