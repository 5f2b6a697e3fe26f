from metadistiller.cli import main

raise SystemExit(main())
