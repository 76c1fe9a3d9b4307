package doctor

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	validatorsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/config/validators/dynamic_modules/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"meshseal/guard"
	"meshseal/identity"
	"meshseal/snapshot"
)

const validatorsField = "dynamic_resources.ads_config.config_validators"

// entry is one config validator that is a dynamic module.
type entry struct {
	field  string
	types  []snapshot.TypeURL
	file   string // of the module; "" where it is loaded by name
	name   string
	config []byte
}

// guard looks whether every update has to pass the guard, and one guard only.
func (x *examination) guard() {
	entries := x.entries()
	asked := map[snapshot.TypeURL]bool{}
	for _, e := range entries {
		for _, t := range e.types {
			asked[t] = true
		}
	}
	missing := 0
	for _, t := range guard.TypeURLs() {
		if !asked[t] {
			missing++
			x.find("GUARD_MISSING", validatorsField, "no validator is asked about %s", t)
		}
	}
	if len(entries) == 0 {
		return
	}
	if missing == 0 {
		x.fact("guard", "asked about all %d types of ADS", len(guard.TypeURLs()))
	}
	first := entries[0]
	for _, e := range entries[1:] {
		if !bytes.Equal(e.config, first.config) || e.file != first.file || e.name != first.name {
			x.find("GUARD_CONFIG_DIFFERS", e.field, "another module or other settings than in %s", first.field)
		}
	}
	x.module(first)
	config, err := guard.ParseConfig(first.config)
	if err != nil {
		x.find("GUARD_CONFIG_INVALID", first.field+".extension_config", "%v", err)
		return
	}
	x.settings(first.field, config)
}

// entries are the validators that are the guard; others do no harm, since each
// of them has to agree.
func (x *examination) entries() []entry {
	var all []entry
	for i, v := range x.Bootstrap.GetDynamicResources().GetAdsConfig().GetConfigValidators() {
		field := fmt.Sprintf("%s[%d]", validatorsField, i)
		m := &validatorsv3.DynamicModuleConfigValidator{}
		if v.GetTypedConfig().UnmarshalTo(m) != nil || m.GetExtensionName() != guard.ExtensionName {
			continue
		}
		e := entry{field: field, file: m.GetDynamicModuleConfig().GetModule().GetLocal().GetFilename(), name: m.GetDynamicModuleConfig().GetName()}
		for _, t := range m.GetTypeUrls() {
			e.types = append(e.types, snapshot.TypeURL(t))
		}
		text := &wrapperspb.StringValue{}
		if m.GetExtensionConfig().UnmarshalTo(text) == nil {
			e.config = []byte(text.GetValue())
		}
		all = append(all, e)
	}
	return all
}

// settings looks at what the guard was told.
func (x *examination) settings(field string, c guard.Config) {
	node := x.Bootstrap.GetNode()
	said := node.GetMetadata().GetFields()[snapshot.MetadataNamespace].GetStructValue().GetFields()["guard"].GetStringValue()
	if said == "" {
		x.find("GUARD_UNSAID", "node.metadata", "meshseal.guard is not there")
	}
	if len(c.Exempt) > 0 {
		x.find("GUARD_EXEMPT", field, "%v", c.Exempt)
	}
	switch {
	case x.Trust.IsZero():
		x.fact("guard keys", "%d of %v have to sign; compare them with --key", c.Trust.Threshold(), c.Trust.KeyIDs())
	case !x.Trust.Equal(c.Trust):
		x.find("GUARD_KEYS_DIFFER", field, "%d of %v, and you said %d of %v", c.Trust.Threshold(), c.Trust.KeyIDs(), x.Trust.Threshold(), x.Trust.KeyIDs())
	default:
		x.fact("guard keys", "%d of %v, as you said", c.Trust.Threshold(), c.Trust.KeyIDs())
	}
	x.fact("guard seal", "mesh %s, proxy %s", c.Mesh, c.Proxy)
	x.record(c)
}

// record looks whether the guard can remember what it accepted.
func (x *examination) record(c guard.Config) {
	if c.Record == "" {
		x.find("GUARD_RECORD_MISSING", "", "no file is named")
		return
	}
	if name, why := recordOpenTo(c.Record); why != "" {
		x.find("GUARD_RECORD", name, "%s", why)
		return
	}
	r, err := snapshot.OpenRecordFile(c.Record, c.Trust)
	if err != nil {
		x.find("GUARD_RECORD", c.Record, "%v", err)
		return
	}
	high := r.Record().High()
	if high.IsZero() {
		x.fact("guard record", "%s: nothing was accepted yet", c.Record)
		return
	}
	x.fact("guard record", "%s: sequence %d, %s, statement of %s", c.Record, high.Sequence, high.Root, high.Issued.Format("2006-01-02T15:04:05Z07:00"))
	if counts := r.Record().Trust(); !counts.Equal(c.Trust) {
		x.fact("guard record keys", "since a statement has declared them %d of %v count", counts.Threshold(), counts.KeyIDs())
	}
}

// recordOpenTo says what lets others than Envoy's user write the record, and
// why: who writes it says whose signatures count. In a folder that everybody
// may write, with a sticky bit or not, somebody else can make the file before
// the guard does.
func recordOpenTo(record string) (name, why string) {
	dir := filepath.Dir(record)
	if why := writableByOthers(dir); why != "" {
		return dir, why
	}
	if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o022 != 0 {
		return dir, fmt.Sprintf("mode %#o lets others than its owner make files there", info.Mode().Perm())
	}
	info, err := os.Lstat(record)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", ""
	case err != nil:
		return record, err.Error()
	case !info.Mode().IsRegular():
		return record, "it is no file of its own: " + info.Mode().String()
	}
	return record, writableByOthers(record)
}

// writableByOthers says why a file or folder is not its owner's alone to
// change; "" where it is.
func writableByOthers(name string) string {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "it does not exist"
	case err != nil:
		return err.Error()
	case info.Mode().Perm()&0o022 != 0 && info.Mode()&fs.ModeSticky == 0:
		return fmt.Sprintf("mode %#o lets others than its owner change it", info.Mode().Perm())
	}
	return ""
}

// module looks at the file that Envoy loads, without loading it.
func (x *examination) module(e entry) {
	if e.file == "" {
		x.find("GUARD_MODULE_BY_NAME", e.field, "it is loaded as %q", e.name)
		return
	}
	for _, name := range []string{e.file, filepath.Dir(e.file)} {
		if why := writableByOthers(name); why != "" {
			x.find("GUARD_MODULE", name, "%s", why)
			return
		}
	}
	abi, err := moduleABI(e.file)
	if err != nil {
		x.find("GUARD_MODULE", e.file, "%v", err)
		return
	}
	data, err := os.ReadFile(e.file)
	if err != nil {
		x.find("GUARD_MODULE", e.file, "%v", err)
		return
	}
	switch want := x.abi(); want {
	case "":
		x.find("GUARD_ABI_UNKNOWN", e.file, "the guard has %s", abi)
	case abi:
		x.fact("guard module", "%s, interface %s, as this Envoy has, %s", e.file, abi, identity.SumDigest(data))
	default:
		x.find("GUARD_ABI", e.file, "the guard has %s and Envoy %s has %s", abi, x.Envoy, want)
	}
}

// abi is the interface of the Envoy that runs the bootstrap; "" if unknown.
func (x *examination) abi() string {
	if x.Envoy == nil {
		return ""
	}
	return abis[[2]int{x.Envoy.Major, x.Envoy.Minor}]
}

// moduleABI reads the version of the interface that a guard module was built
// for out of its file, and holds that it has every function that Envoy calls.
func moduleABI(name string) (string, error) {
	f, err := elf.Open(name)
	if err != nil {
		return "", fmt.Errorf("it is no ELF file: %w", err)
	}
	defer f.Close()
	symbols, err := f.DynamicSymbols()
	if err != nil {
		return "", fmt.Errorf("it exports nothing: %w", err)
	}
	find := func(name string) *elf.Symbol {
		i := slices.IndexFunc(symbols, func(s elf.Symbol) bool { return s.Name == name && s.Section != elf.SHN_UNDEF })
		if i < 0 {
			return nil
		}
		return &symbols[i]
	}
	for _, name := range guard.Exports() {
		if find(name) == nil {
			return "", fmt.Errorf("it is no guard of meshseal: it does not export %s", name)
		}
	}
	s := find(guard.ABISymbol)
	if s == nil || int(s.Section) >= len(f.Sections) {
		return "", fmt.Errorf("it is no guard of meshseal: it does not export %s", guard.ABISymbol)
	}
	section := f.Sections[s.Section]
	if s.Size == 0 || s.Size > 64 || s.Value < section.Addr || s.Value-section.Addr > section.Size-s.Size {
		return "", fmt.Errorf("%s lies outside of its section", guard.ABISymbol)
	}
	text := make([]byte, s.Size)
	if _, err := section.ReadAt(text, int64(s.Value-section.Addr)); err != nil {
		return "", fmt.Errorf("%s: %w", guard.ABISymbol, err)
	}
	return string(bytes.TrimRight(text, "\x00")), nil
}
