"""The generated messages and stubs of package carousel.v1; made by `make proto`, never by hand."""
