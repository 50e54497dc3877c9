"""`python -m osai.client` is the `osai` command."""

from osai.client.cli import main

if __name__ == "__main__":
    main(prog_name="osai")
