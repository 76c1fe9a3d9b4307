package guard

// What the module has to be for an Envoy that loads it, so that others can
// look whether a file is one without loading it.
const (
	// ExtensionName is the name of the validator in the module and in the
	// bootstrap.
	ExtensionName = "meshseal"
	// ABIVersion is the version of Envoy's dynamic module ABI that the module
	// is written for.
	ABIVersion = "v0.2.0"
	// ABISymbol is the symbol of the module whose bytes are ABIVersion and a
	// NUL.
	ABISymbol = "meshseal_guard_abi_version"
)

// Exports are the functions of the module that Envoy calls.
func Exports() []string {
	return []string{
		"envoy_dynamic_module_on_program_init",
		"envoy_dynamic_module_on_config_validator_config_new",
		"envoy_dynamic_module_on_config_validator_config_destroy",
		"envoy_dynamic_module_on_config_validator_validate",
		"envoy_dynamic_module_on_config_validator_validate_delta",
	}
}
