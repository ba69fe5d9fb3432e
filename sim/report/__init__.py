"""Numbers from a trace: measures, memory, and the report that sets them beside the closed form."""
