"""Reports are functions of data: a record becomes a `Report`, which every renderer draws."""
