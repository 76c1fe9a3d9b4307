package opaplugin_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
)

// body is a body and the media type that it is of; both may be empty.
func (g generator) body() (kind, body string) {
	switch n := g.IntN(20); {
	case n < 6:
		kind, body = "application/json", g.json()
	case n < 9:
		kind, body = "application/x-www-form-urlencoded", g.form()
	case n < 13:
		kind, body = "multipart/form-data", g.multipart()
	case n < 17:
		kind, body = "application/grpc", g.grpc()
	case n < 18:
		kind, body = pick(g, "", "text/plain", "application/octet-stream"), pick(g, "", "text", "\xff\x00")
	default:
		return "", ""
	}
	switch {
	case g.once(25):
		body = ""
	case g.once(25):
		body = body[:g.IntN(len(body)+1)]
	case g.once(40):
		var packed bytes.Buffer
		w := gzip.NewWriter(&packed)
		w.Write([]byte(body)) // to memory
		w.Close()
		body = packed.String()
	case g.once(25) && body != "":
		b := []byte(body)
		b[g.IntN(len(b))] = byte(g.IntN(256))
		body = string(b)
	}
	return kind, body
}

func (g generator) json() string {
	text := g.jsonValue(4)
	if !g.once(8) {
		return text
	}
	return pick(g,
		text+" null", text+"null", text+" "+text, text+"}", text+",", "\ufeff"+text, " \t\r\n"+text+"\n", "[\x0b]",
		`{"a":1,"a":2}`, `{"a":{"b":[{"c":1,"d":2,"c":1}]}}`, `{"a":1,"\u0061":2}`, `{"\ud800":1,"\ud801":2}`,
		"[\"\xff\"]", "{\"\xc3\":1}", strings.Repeat("[", 201)+strings.Repeat("]", 201), strings.Repeat("[", 202)+strings.Repeat("]", 202),
		strings.Repeat(`{"a":`, 250)+"1"+strings.Repeat("}", 250),
		"1e400", "[-1e309]", "1e-400", strings.Repeat("9", 308), strings.Repeat("9", 310), "0."+strings.Repeat("3", 398), "0."+strings.Repeat("3", 399),
		"NaN", "01", "+1", ".5", "1.", "'a'", "tru", "//", "nulll")
}

func (g generator) jsonValue(depth int) string {
	switch n := g.IntN(9); {
	case n == 0:
		return pick(g, "null", "true", "false")
	case n <= 2:
		return pick(g, "0", "-0", "1", "1.0", "1e2", "1E+2", "0.10", "12345678901234567890", "1.7976931348623157e308", "5e-324", "-1")
	case n <= 4 || depth == 0:
		return pick(g, `""`, `"text"`, `"\u00e9\ud83d\ude00"`, `"é"`, `"\ud800"`, `"<&>\u2028\u0000\/"`, `"\\\""`)
	case n <= 6:
		list := make([]string, g.IntN(4))
		for i := range list {
			list[i] = g.jsonValue(depth - 1)
		}
		return "[" + strings.Join(list, pick(g, ",", " , ", ",\n")) + "]"
	}
	list := make([]string, g.IntN(4))
	for i := range list {
		list[i] = fmt.Sprintf(`"%s%d":%s`, pick(g, "", "é", "A", `\n`), i, g.jsonValue(depth-1))
	}
	return "{" + strings.Join(list, ",") + "}"
}

func (g generator) form() string {
	text := g.some(5, "&", "a=1", "a=2", "b", "=c", "", "d=", "%61=1", "e=+%20", "f=%C3%A9", "g=é", "h[]=1", "i=%00", "j==", "k=a%26b", "l=x%3By", "A=3")
	if g.once(20) {
		text += pick(g, "&a;b", "&a=%ff", "&%ff=1", "&a=%zz", "&a=\xff", "&\xff", "%")
	}
	return text
}

func (g generator) multipart() string {
	end := pick(g, "\r\n", "\r\n", "\r\n", "\n")
	var b strings.Builder
	if g.once(10) {
		b.WriteString("preamble" + end)
	}
	for range g.IntN(4) {
		b.WriteString("--B" + end)
		if !g.once(15) {
			fmt.Fprintf(&b, "%s: form-data%s%s", pick(g, "Content-Disposition", "content-disposition"),
				pick(g, `; name="a"`, `; name="b"`, `; name=a`, `; name=""`, `; name="é"; filename="f.bin"`, "", `; name="a`), end)
		}
		value := pick(g, "", "text", "é", "\xff\xfe\x00", "two"+end+"lines", "--A", "{}", "x--B--", "\n--B--\n", "\r--B--")
		if g.once(3) {
			b.WriteString("Content-Type: " + pick(g, "application/json", "application/json; charset=utf-8", "application/json", "text/plain", "application/JSON") + end)
			value = g.json()
		}
		if g.once(20) {
			b.WriteString("--B--: x" + end)
		}
		if g.once(20) {
			b.WriteString("Content-Transfer-Encoding: " + pick(g, "quoted-printable", "base64") + end)
			value = pick(g, "a=3Db", "YQ==", "=zz")
		}
		b.WriteString(end + value + end)
	}
	b.WriteString(pick(g, "--B--"+end, "--B--"+end, "--B--", "--B-- ", "--B--"+end+"epilogue"))
	if g.once(20) {
		return strings.TrimSuffix(b.String(), "--B--"+end)
	}
	return b.String()
}

// grpc is the message of a call of the service in shop_test.go.
func (g generator) grpc() string {
	message := g.order(3)
	frame := string(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))) + message
	if !g.once(10) {
		return frame
	}
	return pick(g, "\x01"+frame[1:], frame+frame, frame+"\x00", frame[:g.IntN(len(frame))], "\x00\x00\x00", "\x02"+frame[1:], "\x00\xff\xff\xff\xff")
}

func (g generator) order(depth int) string {
	var b []byte
	for range g.IntN(5) {
		switch n := g.IntN(12); {
		case n < 2:
			b = bytesField(b, 1, pick(g, "", "pen", "é", "\x00", "<&>"))
		case n < 4:
			b = protowire.AppendVarint(protowire.AppendTag(b, 2, protowire.VarintType), pick(g, 0, 1, 1<<63, g.Uint64()))
		case n == 4 && depth > 0:
			b = bytesField(b, 3, g.order(depth-1))
		case n == 5:
			b = bytesField(b, 4, g.any(depth))
		case n == 6:
			b = protowire.AppendVarint(protowire.AppendTag(b, 5, protowire.VarintType), uint64(g.IntN(4))) // an enum
		case n == 7:
			b = bytesField(b, 6, pick(g, "", "\x00\xff", "bytes"))
		case n == 8:
			b = bytesField(b, 7, bytesField("", 1, pick(g, "k", "K", ""))+bytesField("", 2, pick(g, "v", "")))
		case n == 9:
			b = protowire.AppendFixed64(protowire.AppendTag(b, 8, protowire.Fixed64Type), pick(g, 0, 1<<63, 0x7ff0000000000000, 0x7ff8000000000001, 0x3fb999999999999a, 0x444b1ae4d6e2ef50, g.Uint64()))
		case n == 10:
			b = bytesField(b, 9, string(protowire.AppendVarint([]byte{8}, uint64(g.IntN(100))))) // a time
		default:
			b = bytesField(b, 99, "unknown")
		}
	}
	if g.once(30) {
		b = append(b, pick(g, "\xff", "\x0a", "\x0a\x02\xff\xfe", "\x08\x01", "\x1b")...)
	}
	return string(b)
}

func (g generator) any(depth int) string {
	kind := pick(g, "google.protobuf.Duration", "google.protobuf.StringValue", "google.protobuf.Any", "google.protobuf.Empty", "no.such.Type")
	value := ""
	switch {
	case kind == "google.protobuf.Duration":
		value = "\x08\x05"
	case kind == "google.protobuf.StringValue":
		value = bytesField("", 1, "text")
	case kind == "google.protobuf.Any" && depth > 0:
		value = g.any(depth - 1)
	}
	return bytesField("", 1, pick(g, "type.googleapis.com/", "x/")+kind) + bytesField("", 2, value)
}

func bytesField[T string | []byte](to T, number protowire.Number, value string) T {
	return T(protowire.AppendString(protowire.AppendTag([]byte(to), number, protowire.BytesType), value))
}
