"""What is measured, one question a file; `ALL` in bench/__main__.py is their order."""
