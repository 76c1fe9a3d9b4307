// The part of Envoy's dynamic module ABI, version v0.2.0, that a config
// validator uses, written down from its documentation. Every buffer belongs to
// Envoy and ends with the call.

#ifndef MESHSEAL_GUARD_ABI_H
#define MESHSEAL_GUARD_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct {
  const char* ptr;
  size_t length;
} abi_buffer;

typedef struct {
  abi_buffer name;
  abi_buffer version;
  const abi_buffer* aliases;
  size_t aliases_count;
  bool has_ttl;
  uint64_t ttl_milliseconds;
  bool has_resource;
  abi_buffer resource;
} abi_resource;

// Envoy brings it. It is weak so that the library links without an Envoy.
extern void envoy_dynamic_module_callback_config_validator_set_rejection_message(
    void* context, abi_buffer message) __attribute__((weak));

static inline void abi_reject(void* context, const char* text, size_t length) {
  if (envoy_dynamic_module_callback_config_validator_set_rejection_message != NULL) {
    abi_buffer message = {text, length};
    envoy_dynamic_module_callback_config_validator_set_rejection_message(context, message);
  }
}

#endif
