package opaplugin_test

// row is one difference on purpose: a line of the table in docs/policy.md, and
// a case of TestDifferences by its name.
type row struct {
	name             string
	plugin, meshseal string // what each does
}

// Differences in the input: meshseal reads the request in another way.
var (
	rawHeaders    = row{"raw-headers", "headers in raw form are under `headerMap`, and no body is parsed by them", "they are under `headers`, as the others; the build makes Envoy send this form"}
	capitals      = row{"type-in-capitals", "a content type in capitals, of the body or of a part, is not known: null", "is read without regard to case"}
	typeElsewhere = row{"type-elsewhere", "a content type is looked for anywhere in the header", "is what the header begins with; a parameter cannot pose as it"}
	partialBody   = row{"partial-body", "`x-envoy-auth-partial-body` is not looked at: a cut-off form is parsed as a whole one", "`truncated_body` is true"}
	anyOfSet      = row{"any-of-the-set", "an Any is read if its type happens to be linked into the plugin", "if it is a well-known type or one of the descriptor sets"}
)

// Differences in the input: meshseal refuses the request.
var (
	noAttributes  = row{"no-attributes", "a check without attributes is decided about", "is denied"}
	noRequestLine = row{"no-method-or-path", "an HTTP request without a method or a path is decided about", "is denied; CONNECT needs no path"}
	notUTF8       = row{"not-utf-8", "bytes in a path, query, form or JSON that are not UTF-8 are kept or replaced", "the request is denied"}
	malformedType = row{"malformed-content-type", "a content type that is malformed or there twice is taken for what is found in it", "the request is denied if a known type is in it"}
	keyTwice      = row{"key-twice", "of a key that JSON names twice, the last one counts", "the request is denied"}
	trailingNull  = row{"trailing-null", "`null` after a JSON value is passed over", "the request is denied"}
	tooDeep       = row{"nested-too-deep", "JSON, or the message of a gRPC call, may be nested 10,000 deep", "200 deep, and 200 Any values"}
	hugeNumbers   = row{"huge-number", "a number of JSON may have any size", "the range of a double, and 400 characters"}
	openMultipart = row{"open-multipart", "a multipart body that ends within the header of a part is parsed without that part", "the request is denied"}
	manyParts     = row{"many-parts", "a multipart body may have any number of parts", "1000"}
	secondMessage = row{"second-message", "what follows the message of a gRPC call that takes one is passed over", "the request is denied"}
	largeMessage  = row{"large-message", "the message of a gRPC call may have any size", "256 KiB"}
)

// Differences in what a decision may say.
var (
	unusedField     = row{"unused-field", "a field that the decision does not use may be of any type", "a wrong type is an error in every field"}
	malformedHeader = row{"malformed-header", "a header may have any name and value", "those that HTTP allows"}
	steeringHeader  = row{"steering-header", "a policy may set and remove every header", "not `host`, `:path` and such, `x-envoy-…` of the request, the ones that frame a message, nor `x-meshseal-…`"}
	queryCharacters = row{"query-characters", "a query parameter to set may have any name and value", "letters, digits and `*-._`: Envoy answers 500 to others"}
	denialStatus    = row{"denial-status", "a denial may have every status that Envoy knows", "301, 302, 303, 307, 308 and 400 to 599: a denial must not look like success"}
	builtinError    = row{"builtin-error", "a built-in function that fails is undefined, so under `not` it allows", "is an error"}
	refusedFunction = row{"refused-function", "`http.send` and the others below can be called", "a program that calls one is refused when it is built"}
)

// Differences in the form of the answer.
var (
	errorDenies   = row{"error-is-a-denial", "an undefined decision, a wrong type or an error is a gRPC error, which Envoy allows with `failure_mode_allow`", "is a denial with a reason"}
	badRequest    = row{"bad-request", "a request that cannot be read is answered 400 with the error in the body", "403 and the reason; the error is for the record"}
	ownHeaders    = row{"reason-of-a-denial", "a denial has only what the policy gave it", "also `x-meshseal-reason` and `x-meshseal-decision`, and both in the body if the policy gave none"}
	booleanAnswer = row{"boolean-answer", "a boolean is a status alone", "and an `OkHttpResponse` or a `DeniedHttpResponse`"}
	headerOptions = row{"header-options", "headers are as the policy wrote them; whether one replaces or is added is left to Envoy", "in lower case; the first value of a name replaces, further ones are added, and headers of a response are added"}
	versionTwo    = row{"ext-authz-v2", "the v2 API of ext_authz is served", "v3 alone, as of Envoy since 1.17"}
)

var rows = []row{
	rawHeaders, capitals, typeElsewhere, partialBody, anyOfSet,
	noAttributes, noRequestLine, notUTF8, malformedType, keyTwice, trailingNull, tooDeep, hugeNumbers, openMultipart, manyParts, secondMessage, largeMessage,
	unusedField, malformedHeader, steeringHeader, queryCharacters, denialStatus, builtinError, refusedFunction,
	errorDenies, badRequest, ownHeaders, booleanAnswer, headerOptions, versionTwo,
}
