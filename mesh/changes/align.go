package changes

import (
	"fmt"
	"slices"
	"strings"
)

// keys are what an element of a list may be named by, in order of preference.
// The last is that of a HeaderValueOption.
var keys = [][]string{{"name"}, {"key"}, {"header", "key"}}

// element is one element of a list.
type element struct {
	value
	at   int    // its place
	key  string // "name=http"; empty without one of its own
	body string // as text, to tell equal ones
	mate int    // place of the element in the other list that it is compared with; -1 for none
	step string // of a path: "[name=http]" or "[0]"
}

// elements are those of two lists. A key counts only where neither list has it
// twice.
func elements(a, b list) (x, y []element) {
	twice := map[string]bool{"": true}
	read := func(l list) (out []element) {
		seen := map[string]bool{}
		for i, v := range l {
			e := element{value: v, at: i, key: keyOf(v), body: write(v), mate: -1}
			twice[e.key] = twice[e.key] || seen[e.key]
			seen[e.key] = true
			out = append(out, e)
		}
		return out
	}
	x, y = read(a), read(b)
	for _, all := range [][]element{x, y} {
		for i := range all {
			e := &all[i]
			if e.step = "[" + e.key + "]"; twice[e.key] {
				e.key, e.step = "", fmt.Sprintf("[%d]", i)
			}
		}
	}
	return x, y
}

func keyOf(v value) string {
	m, ok := v.(*message)
	if !ok {
		return ""
	}
	for _, path := range keys {
		at := m
		for _, name := range path[:len(path)-1] {
			at = at.child(name)
		}
		if s := text(at.get(path[len(path)-1])); s != "" {
			return path[len(path)-1] + "=" + plain(s)
		}
	}
	return ""
}

// compareLists compares elements of the same name, and the others by where they
// stand among those that are equal.
func (l *fieldList) compareLists(path string, a, b list) {
	x, y := elements(a, b)
	matchKeys(x, y)
	matchRest(x, y)
	for _, e := range x {
		if e.mate < 0 {
			l.removed(path+e.step, e.value)
		}
	}
	for i, e := range y {
		switch {
		case e.mate >= 0:
			l.compare(path+e.step, x[e.mate].value, e.value)
		case e.key == "":
			l.added(path+e.step, e.value, "")
		case i+1 < len(y):
			l.added(path+e.step, e.value, "before "+y[i+1].step)
		default:
			l.added(path+e.step, e.value, "last")
		}
	}
	l.moved(path, x, y)
}

func matchKeys(x, y []element) {
	of := map[string]int{}
	for _, e := range x {
		if e.key != "" {
			of[e.key] = e.at
		}
	}
	for i := range y {
		if at, ok := of[y[i].key]; ok && y[i].key != "" {
			y[i].mate, x[at].mate = at, i
		}
	}
}

// matchRest matches the elements without a mate: first the equal ones in the
// longest order that both lists have, then what is left between two of these.
func matchRest(x, y []element) {
	x0, y0 := alone(x), alone(y)
	same := common(x0, y0)
	i, j := 0, 0
	for _, p := range append(same, [2]int{len(x0), len(y0)}) {
		for ; i < p[0] && j < p[1]; i, j = i+1, j+1 {
			pair(x0[i], y0[j])
		}
		if i, j = p[0]+1, p[1]+1; i <= len(x0) && j <= len(y0) {
			pair(x0[i-1], y0[j-1])
		}
	}
}

func alone(all []element) []*element {
	var out []*element
	for i := range all {
		if all[i].mate < 0 && all[i].key == "" {
			out = append(out, &all[i])
		}
	}
	return out
}

func pair(x, y *element) { x.mate, y.mate = y.at, x.at }

// maxTable bounds the work for one list: beyond it, only elements that are there
// once are matched as equal.
const maxTable = 1 << 22

// common is a longest common subsequence of equal elements, as places in x and
// y.
func common(x, y []*element) [][2]int {
	var head, tail [][2]int
	first := 0
	for first < len(x) && first < len(y) && x[first].body == y[first].body {
		head = append(head, [2]int{first, first})
		first++
	}
	n, m := len(x), len(y)
	for n > first && m > first && x[n-1].body == y[m-1].body {
		n, m = n-1, m-1
		tail = append(tail, [2]int{n, m})
	}
	slices.Reverse(tail)
	find := longest
	if rows, columns := n-first, m-first; columns > 0 && rows > maxTable/columns {
		find = longestUnique
	}
	for _, p := range find(x[first:n], y[first:m]) {
		head = append(head, [2]int{first + p[0], first + p[1]})
	}
	return append(head, tail...)
}

// longestUnique is longest among the elements that each list has once, by
// patience sorting: the longest run of rising places in y, O(n log n).
func longestUnique(x, y []*element) [][2]int {
	inX, inY, place := map[string]int{}, map[string]int{}, map[string]int{}
	for _, e := range x {
		inX[e.body]++
	}
	for j, e := range y {
		inY[e.body]++
		place[e.body] = j
	}
	type card struct{ i, j, below int }
	var cards []card
	var tops []int // of the piles, as places in cards
	for i, e := range x {
		if inX[e.body] != 1 || inY[e.body] != 1 {
			continue
		}
		c := card{i, place[e.body], -1}
		pile, _ := slices.BinarySearchFunc(tops, c.j, func(top, j int) int { return cards[top].j - j })
		if pile > 0 {
			c.below = tops[pile-1]
		}
		if pile == len(tops) {
			tops = append(tops, 0)
		}
		tops[pile] = len(cards)
		cards = append(cards, c)
	}
	var out [][2]int
	if len(tops) > 0 {
		for c := tops[len(tops)-1]; c >= 0; c = cards[c].below {
			out = append(out, [2]int{cards[c].i, cards[c].j})
		}
	}
	slices.Reverse(out)
	return out
}

// longest is the textbook's table of lengths, walked from its begin.
func longest(x, y []*element) [][2]int {
	width := len(y) + 1
	table := make([]int32, (len(x)+1)*width)
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i].body == y[j].body {
				table[i*width+j] = table[(i+1)*width+j+1] + 1
			} else {
				table[i*width+j] = max(table[(i+1)*width+j], table[i*width+j+1])
			}
		}
	}
	var out [][2]int
	for i, j := 0, 0; i < len(x) && j < len(y); {
		switch {
		case x[i].body == y[j].body:
			out = append(out, [2]int{i, j})
			i, j = i+1, j+1
		case table[(i+1)*width+j] >= table[i*width+j+1]:
			i++
		default:
			j++
		}
	}
	return out
}

// moved tells the order of the elements that both lists have, if it changed: of
// routes, filters and much else it decides.
func (l *fieldList) moved(path string, x, y []element) {
	var before, after []string
	last, sorted := -1, true
	for _, e := range y {
		if e.mate >= 0 {
			sorted = sorted && e.mate > last
			last = e.mate
			after = append(after, e.step)
		}
	}
	if sorted {
		return
	}
	for _, e := range x {
		if e.mate >= 0 {
			before = append(before, y[e.mate].step)
		}
	}
	b, a := shorten(strings.Join(before, " "), strings.Join(after, " "))
	l.add(Field{Path: path, Op: Moved, Before: b, After: a})
}
