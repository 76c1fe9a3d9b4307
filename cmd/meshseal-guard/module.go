//go:build cgo

package main

// #include "abi.h"
//
// extern const char meshseal_guard_abi_version[];
// static const char* version(void) { return meshseal_guard_abi_version; }
//
// // The one validator that there is; its address is what Envoy holds.
// static char validator;
// static void* handle(void) { return &validator; }
import "C"

import (
	"fmt"
	"os"
	"time"
	"unsafe"

	"meshseal/guard"
	"meshseal/snapshot"
)

// process is what all validators of this Envoy share.
var process guard.Process

//export envoy_dynamic_module_on_program_init
func envoy_dynamic_module_on_program_init() *C.char { return (*C.char)(unsafe.Pointer(C.version())) }

// envoy_dynamic_module_on_config_validator_config_new makes a validator. NULL
// makes Envoy refuse its bootstrap.
//
//export envoy_dynamic_module_on_config_validator_config_new
func envoy_dynamic_module_on_config_validator_config_new(_ unsafe.Pointer, name, config C.abi_buffer) (made unsafe.Pointer) {
	defer func() {
		if r := recover(); r != nil {
			say("panic: %v", r)
			made = nil
		}
	}()
	if err := open(name, config); err != nil {
		say("%v", err)
		return nil
	}
	return C.handle()
}

func open(name, config C.abi_buffer) error {
	n, err := view(name)
	if err != nil {
		return err
	}
	if string(n) != guard.ExtensionName {
		return fmt.Errorf("extension_name is %q; this module has %q only", n, guard.ExtensionName)
	}
	text, err := view(config)
	if err != nil {
		return err
	}
	return process.Open(text, time.Now)
}

// envoy_dynamic_module_on_config_validator_config_destroy ends a validator.
// What the guard has accepted stays: while the process lives, nothing older
// comes back.
//
//export envoy_dynamic_module_on_config_validator_config_destroy
func envoy_dynamic_module_on_config_validator_config_destroy(unsafe.Pointer) {}

//export envoy_dynamic_module_on_config_validator_validate
func envoy_dynamic_module_on_config_validator_validate(context, module unsafe.Pointer, url C.abi_buffer, added *C.abi_resource, nAdded C.size_t) C.bool {
	return answer(context, module, url, func(g *guard.Guard, url snapshot.TypeURL) error {
		return g.ValidateState(url)
	})
}

//export envoy_dynamic_module_on_config_validator_validate_delta
func envoy_dynamic_module_on_config_validator_validate_delta(context, module unsafe.Pointer, url C.abi_buffer, added *C.abi_resource, nAdded C.size_t, removed *C.abi_buffer, nRemoved C.size_t) C.bool {
	return answer(context, module, url, func(g *guard.Guard, url snapshot.TypeURL) error {
		resources, err := resources(added, nAdded)
		if err != nil {
			return err
		}
		names, err := names(removed, nRemoved)
		if err != nil {
			return err
		}
		return g.Validate(url, resources, names)
	})
}

// answer asks the guard and tells Envoy why not. Nothing but a nil error of the
// guard becomes a true.
func answer(context, module unsafe.Pointer, url C.abi_buffer, ask func(*guard.Guard, snapshot.TypeURL) error) (ok C.bool) {
	defer func() {
		if r := recover(); r != nil {
			reject(context, fmt.Sprintf("meshseal guard: %s: panic: %v", guard.CodeInternal, r))
			ok = false
		}
	}()
	if module != C.handle() {
		reject(context, fmt.Sprintf("meshseal guard: %s: Envoy asks a validator that was not made", guard.CodeInternal))
		return false
	}
	text, err := view(url)
	if err == nil {
		err = ask(process.Guard(), snapshot.TypeURL(text))
	}
	if err != nil {
		reject(context, err.Error())
		return false
	}
	return true
}

func reject(context unsafe.Pointer, text string) {
	if context == nil || text == "" {
		return
	}
	C.abi_reject(context, (*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text)))
}

// say writes to Envoy's stderr, where its own log goes: why a bootstrap is
// refused has no other way out.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "meshseal guard: "+format+"\n", args...)
}
