"""Scripts behind the numbers in the docs. Each prints Markdown with hardware, versions, repetitions and spread."""
