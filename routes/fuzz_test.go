package routes_test

import (
	"strings"
	"testing"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	"google.golang.org/protobuf/encoding/prototext"

	"meshseal/routes"
)

// FuzzMatch: whatever a request says, Match ends, without a panic, and the
// index finds the route that the plain walk of a table with few routes finds.
func FuzzMatch(f *testing.F) {
	const some = `
		routes {name: "0" match {path: "/a;b"}}
		routes {name: "1" match {path_separated_prefix: "/A" case_sensitive {}}}
		routes {name: "2" match {safe_regex {regex: "/x.*\\pL"} headers {name: "x-a" range_match {start: -3 end: 4}}}}
		routes {name: "3" match {prefix: "/q" query_parameters {name: "q" string_match {contains: "FoO" ignore_case: true}}}}
		routes {name: "4" match {prefix: "/c" cookies {name: "c" string_match {suffix: "1"} invert_match: true}}}
		routes {name: "5" match {connect_matcher {}}}
		routes {name: "6" match {prefix: "/g" grpc {}}}`
	never := strings.Repeat(` routes {name: "never" match {prefix: "/a" headers {name: "never"}}}`, 20)
	tables := make([]*routes.Table, 2)
	for i, text := range []string{some, some + never} {
		m := new(routev3.RouteConfiguration)
		err := prototext.Unmarshal([]byte(`ignore_port_in_host_matching: true ignore_path_parameters_in_path_matching: true
			virtual_hosts {name: "v" domains: "a.test" domains: "*.b" domains: "c*"`+text+`}`), m)
		if err == nil {
			tables[i], err = routes.Compile(m)
		}
		if err != nil {
			f.Fatal(err)
		}
	}
	f.Add("a.test:80", "/a;x/b?q#f", "GET", "x-a", "-2", "3")
	f.Add("[::1]:", "", "CONNECT", "cookie", `c="1"`, ";;c=1")
	f.Add(".b", "/x\xff\xe9", "GET", "content-type", "application/grpc+", "99999999999999999999")
	f.Fuzz(func(t *testing.T, authority, path, method, name, one, two string) {
		ask := &routes.Request{Authority: authority, Path: path, Method: method, Headers: proto(name, one, name, two)}
		few, ok := tables[0].Match(ask)
		many, ok2 := tables[1].Match(ask)
		if few != many && name != "never" || ok != ok2 && name != "never" {
			t.Errorf("%+v: %+v (%t), with more routes behind them %+v (%t)", ask, few, ok, many, ok2)
		}
	})
}
