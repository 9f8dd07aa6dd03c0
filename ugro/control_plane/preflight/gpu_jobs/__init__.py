"""Scripts that `ugro check --gpu` runs as jobs. The scripts are copied into a folder of their own, and know no UGRO."""
