"""The web page that shows and steers everything: static files. `ugro serve` serves them, `ugro report` inlines them."""
