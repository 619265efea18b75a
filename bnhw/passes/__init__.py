"""The passes of the compiler, one file each; `pipeline` has their order."""
