"""Files and folders of images, one module a format; `formats.py` has the table of them.

What is read is judged by its content. Nothing in a file is executed, and nothing is allocated that the file's length
has not been checked against.
"""
