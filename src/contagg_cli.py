"""Entry point of the `contagg` command.

It stands beside the package so that a mistyped recipe is answered before torch is imported: importing `contagg`
registers the models with timm, which takes seconds, unless this module was loaded first.
"""


def main() -> None:
    from contagg.cli import main as run

    run()


if __name__ == "__main__":
    main()
