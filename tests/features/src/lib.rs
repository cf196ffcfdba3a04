//! Empty: the manifest is the content.
