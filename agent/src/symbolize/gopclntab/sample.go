// The program that the tests of the function table read and ask.
//
//	sample frames MAIN   for each address on stdin, what the runtime says about it: function, file, line
//	sample stacks MAIN   call stacks of this program: address, function, file, line; a blank line after each
//
// MAIN is the address of main.main in the file; addresses are as in the file.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"regexp"
	"runtime"
	"sort"
	"strconv"
	"strings"
	"sync"
	"text/template"
)

type numbers[T any] struct{ items []T }

func (n numbers[T]) each(f func(T)) {
	for _, item := range n.items {
		f(item)
	}
}

type point struct{ x, y int }

func (p point) String() string               { return middle() + strconv.Itoa(p.x) }
func (p point) MarshalJSON() ([]byte, error) { return []byte(strconv.Quote(outer())), nil }

func outer() string  { return middle() + "!" }
func middle() string { return inner() }
func inner() string {
	show()
	return "x"
}

var bias uintptr

//go:noinline
func show() {
	pcs := make([]uintptr, 200)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(1, pcs)])
	for {
		frame, more := frames.Next()
		fmt.Printf("%x\t%s\t%s\t%d\n", frame.PC-bias, frame.Function, frame.File, frame.Line)
		if !more {
			break
		}
	}
	fmt.Println()
}

func stacks() {
	var once sync.Once
	once.Do(func() { outer() })
	numbers[int]{[]int{1}}.each(func(int) { outer() })
	numbers[string]{[]string{"a"}}.each(func(string) { middle() })
	sort.Slice([]int{2, 1}, func(i, j int) bool { outer(); return i < j })
	strings.Map(func(r rune) rune { inner(); return r }, "a")
	regexp.MustCompile("a").ReplaceAllStringFunc("a", func(string) string { return outer() })
	fmt.Fprintln(os.Stderr, point{1, 2})
	if _, err := json.Marshal([]point{{1, 2}}); err != nil {
		panic(err)
	}
	page := template.Must(template.New("").Funcs(template.FuncMap{"outer": outer}).Parse("{{outer}}"))
	if err := page.Execute(os.Stderr, nil); err != nil {
		panic(err)
	}
	var wait sync.WaitGroup
	wait.Add(1)
	go func() {
		defer wait.Done()
		defer func() {
			_ = recover()
			middle()
		}()
		panic(outer())
	}()
	wait.Wait()
}

func frames() {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		address, err := strconv.ParseUint(strings.TrimPrefix(lines.Text(), "0x"), 16, 64)
		if err != nil {
			panic(err)
		}
		frame, _ := runtime.CallersFrames([]uintptr{uintptr(address) + bias + 1}).Next()
		fmt.Printf("%s\t%s\t%d\n", frame.Function, frame.File, frame.Line)
	}
}

func main() {
	address, err := strconv.ParseUint(os.Args[2], 16, 64)
	if err != nil {
		panic(err)
	}
	bias = reflect.ValueOf(main).Pointer() - uintptr(address)
	if os.Args[1] == "stacks" {
		stacks()
	} else {
		frames()
	}
}
