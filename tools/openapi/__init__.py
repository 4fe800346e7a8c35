"""Import from OpenAPI 3.x documents: each operation becomes the definition of an HTTP tool.

`reading` and `fetching` get a bounded document, `references` keeps to what stands in it, `schemas` turns its schemas into JSON Schema
2020-12, `operations` makes the definitions, and `importing` submits those that somebody chose.
"""
