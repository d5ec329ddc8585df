"""Scripts behind the numbers in docs; each prints Markdown with hardware, versions, repetitions and spread."""
