//go:build cgo

// The version of Envoy's ABI that this module is written for. It has a name of
// its own, so that a reader of the file finds it without loading the module.
const char meshseal_guard_abi_version[] = "v0.2.0";
