package doctor

import "slices"

// Rule is one thing that Examine looks for.
type Rule struct {
	Code  string
	Level Level
	Title string
	Mend  string
}

// Table is every rule, by code. docs/doctor.md shows it.
func Table() []Rule { return slices.Clone(table) }

func ruleOf(code string) (Rule, bool) {
	i := slices.IndexFunc(table, func(r Rule) bool { return r.Code == code })
	if i < 0 {
		return Rule{}, false
	}
	return table[i], true
}

const remake = "write the bootstrap anew with meshseal bootstrap"

var table = []Rule{
	{"ADMIN_EXPOSED", Broken, "others than Envoy's own user can reach its admin interface, which can change logging and runtime, and end it", "put it on a Unix socket with mode 0600 in a folder of the Envoy's user"},
	{"ADS_MISSING", Broken, "Envoy takes nothing over ADS", remake},
	{"ADS_NOT_DELTA", Broken, "ADS is not in delta form; the guard refuses the other form, and without the guard a rejected update can still remove a listener", "api_type: DELTA_GRPC, with one gRPC service"},
	{"AUTHZ_CLUSTER", Broken, "the cluster that ext_authz asks is missing, or somebody else could answer for it", remake},
	{"BOOTSTRAP_EXTENSION", Weak, "an extension of the whole process stands in the bootstrap; no seal covers it", "remove it, or see for yourself that it changes nothing about listeners, clusters and filters"},
	{"CONFIG_SOURCE", Broken, "listeners, clusters or something else come from a place that the guard does not watch", "take everything from ads_config; see docs/guard.md"},
	{"ENVOY_EXT_AUTHZ_HOLE", Broken, "this release of Envoy has a known hole in or around ext_authz", "use a release that has the fix"},
	{"ENVOY_TOO_OLD", Broken, "this release of Envoy cannot load the guard", "use Envoy 1.40.0 or later"},
	{"ENVOY_UNKNOWN", Unknown, "which Envoy runs the bootstrap, or what is known of it, could not be found out", "name the program: --envoy PATH"},
	{"GUARD_ABI", Broken, "the guard was built for another version of Envoy's module interface", "use the guard of a release of meshseal that names this Envoy"},
	{"GUARD_ABI_UNKNOWN", Unknown, "whether Envoy and the guard speak the same version of the module interface is not known", "name the Envoy: --envoy PATH; newer releases of meshseal know newer Envoys"},
	{"GUARD_CONFIG_DIFFERS", Broken, "two entries of the guard have different settings", remake},
	{"GUARD_CONFIG_INVALID", Broken, "the guard does not take its settings; Envoy will not start", remake},
	{"GUARD_EXEMPT", Weak, "the guard lets a type of resource through without a seal", "leave exempt empty, unless a registry brings the endpoints and each sealed cluster pins its peers' SPIFFE ID"},
	{"GUARD_KEYS_DIFFER", Broken, "the guard counts other signatures than you said it should", "compare the keys and the threshold; " + remake},
	{"GUARD_MISSING", Broken, "updates of a type are taken without asking the guard", remake},
	{"GUARD_MODULE", Broken, "the guard's file is missing, can be changed by others, or is no guard", "install libmeshseal_guard.so of your release, owned by root, mode 0644"},
	{"GUARD_MODULE_BY_NAME", Unknown, "the guard is loaded by name, so that the environment of Envoy decides which file that is", "name the file: dynamic_module_config.module.local.filename"},
	{"GUARD_RECORD", Broken, "the guard's record of the highest sequence cannot be kept, or can be changed by others", "name a file in a folder that only Envoy's user can write, mode 0600; " + remake},
	{"GUARD_RECORD_MISSING", Weak, "the guard keeps no record: after a restart of Envoy it would take an older snapshot than before, as long as its statement has not expired, and signatures by keys that were replaced since", "meshseal bootstrap --guard-record FILE"},
	{"GUARD_UNSAID", Weak, "the node's metadata does not say that this Envoy has the guard, so that the server's status cannot show it and it may be sent something before its seal", "node.metadata.meshseal.guard: v1"},
	{"RUNTIME_LAYER", Broken, "runtime settings can be changed while Envoy runs, and some of them switch filters off", "remove rtds_layer, disk_layer and admin_layer from layered_runtime"},
	{"STATIC_LISTENER", Broken, "a listener stands in the bootstrap: no seal covers it, and nothing makes it ask ext_authz", "move it to the mesh repository: meshseal import"},
	{"STATIC_SECRET", Weak, "a secret stands in the bootstrap", "take certificates and keys from the SPIFFE agent over SDS"},
	{"UNSEALED_CLUSTER", Weak, "a cluster stands in the bootstrap that meshseal does not need; no seal covers it, and a cluster of the mesh with its name would not count", "move it to the mesh repository"},
	{"XDS_CLUSTER", Broken, "the cluster of the ADS stream is missing, or somebody else could answer for it", remake},
}
