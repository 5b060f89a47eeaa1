"""From a resolved context to bytes on the wire: dialling, connections, pools, the table of upstreams."""
