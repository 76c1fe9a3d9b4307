package request

import "encoding/json"

// DocumentOptions are what AppendDocument is told.
type DocumentOptions struct {
	// Secret reports whether a header is left out; name is in lower case.
	Secret func(name, value string) bool
	// Meshseal is input.meshseal, as JSON.
	Meshseal []byte
}

// AppendDocument appends the input of a record to dst, and the list of JSON
// pointers to what is left out of it to erased. It is false, and nothing
// appended, for a request that has to be decoded.
func (r *Request) AppendDocument(dst, erased []byte, o DocumentOptions) (document, pointers []byte, ok bool) {
	return dst, erased, false
}

// AppendString appends a JSON string.
func AppendString(dst []byte, s string) []byte {
	text, err := json.Marshal(s)
	if err != nil {
		return append(dst, `""`...)
	}
	return append(dst, text...)
}
