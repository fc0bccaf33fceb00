"""Worked examples with real and made-up usage events; `rollup-engine demo` runs `examples.access_log`."""
