"""The only code that opens untrusted files: everything is bounded, and unexpected input is rejected with a message.

Nothing that is read here is executed, imported or unpickled. The parsers reject, at any position: more bytes, rows,
nesting or numbers than `limits` allows, duplicate keys and sample ids, NaN and infinities, text that is not UTF-8,
other schema versions, aliases and tags of YAML; and of folders, links, devices and unknown names. Free text (answers,
descriptions) is kept as it is and made harmless where it is shown, by the functions of `text`.
"""
