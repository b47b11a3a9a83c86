"""What Carousel is made of: the packages that are pinned, their licences, and the bill of them."""
