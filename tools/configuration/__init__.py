"""Configuration as code: the registry as YAML files, out and in. docs/configuration_as_code.md describes them.

`writing` makes files of what the registry holds, `reading` makes documents of files, `applying` makes the registry say what
documents say, `showing` tells what that changes. `kinds` knows what is particular about each kind; `json_schema` describes the files.
"""
