//! Storage back ends: local files, block devices and object stores.
