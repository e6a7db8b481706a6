//! Load, attach, pin, read and write the kernel program and its maps.
