// Says what the tools of GitOps make of objects: kstatus, by which Flux and `helm --wait` wait, and Argo CD's health.
//
//	kubectl get pipelines -o json | health [-lua docs/argocd/health.lua]
//
// Reads objects or lists of them, as JSON or YAML, and prints a line of JSON for each. Argo CD has no health check of its own
// for resources like ours; it takes the Lua script, which runs here in the interpreter that Argo CD has.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/argoproj/gitops-engine/pkg/health"
	"github.com/fluxcd/cli-utils/pkg/kstatus/status"
	lua "github.com/yuin/gopher-lua"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/yaml"
)

// What is said of an object.
type verdict struct {
	Kind           string `json:"kind"`
	Name           string `json:"name"`
	Kstatus        string `json:"kstatus"`
	KstatusMessage string `json:"kstatusMessage,omitempty"`
	Argo           string `json:"argo,omitempty"`
	ArgoMessage    string `json:"argoMessage,omitempty"`
}

func main() {
	script := flag.String("lua", "", "Argo CD's health check for the objects' kinds")
	flag.Parse()
	if err := run(os.Stdin, os.Stdout, *script); err != nil {
		fmt.Fprintln(os.Stderr, "health:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer, script string) error {
	var override health.HealthOverride
	if script != "" {
		text, err := os.ReadFile(script)
		if err != nil {
			return err
		}
		override = luaHealth(text)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bufio.NewReader(in), 4096)
	encoder := json.NewEncoder(out)
	judge := func(object *unstructured.Unstructured) error {
		said, err := judged(object, override)
		if err != nil {
			return fmt.Errorf("%s %s: %w", object.GetKind(), object.GetName(), err)
		}
		return encoder.Encode(said)
	}
	for {
		var document runtime.RawExtension
		if err := decoder.Decode(&document); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if len(document.Raw) == 0 || string(document.Raw) == "null" {
			continue
		}
		decoded, _, err := unstructured.UnstructuredJSONScheme.Decode(document.Raw, nil, nil)
		if err != nil {
			return err
		}
		list, ok := decoded.(*unstructured.UnstructuredList)
		if !ok {
			list = &unstructured.UnstructuredList{Items: []unstructured.Unstructured{*decoded.(*unstructured.Unstructured)}}
		}
		for i := range list.Items {
			if err := judge(&list.Items[i]); err != nil {
				return err
			}
		}
	}
}

func judged(object *unstructured.Unstructured, override health.HealthOverride) (*verdict, error) {
	computed, err := status.Compute(object)
	if err != nil {
		return nil, err
	}
	said := &verdict{
		Kind: object.GetKind(), Name: object.GetName(),
		Kstatus: string(computed.Status), KstatusMessage: computed.Message,
	}
	found, err := health.GetResourceHealth(object, override)
	if err != nil {
		return nil, err
	}
	if found != nil {
		said.Argo, said.ArgoMessage = string(found.Status), found.Message
	}
	return said, nil
}

// A health check as Argo CD runs it: `obj` is the object, and a table with `status` and `message` is returned.
type luaHealth []byte

func (script luaHealth) GetResourceHealth(object *unstructured.Unstructured) (*health.HealthStatus, error) {
	if object.GroupVersionKind().Group != "millrace.dev" {
		return nil, nil
	}
	// As in Argo CD: without the libraries that reach the system.
	state := lua.NewState(lua.Options{SkipOpenLibs: true})
	defer state.Close()
	for _, library := range []struct {
		name string
		open lua.LGFunction
	}{
		{lua.LoadLibName, lua.OpenPackage},
		{lua.BaseLibName, lua.OpenBase},
		{lua.TabLibName, lua.OpenTable},
	} {
		if err := state.CallByParam(lua.P{Fn: state.NewFunction(library.open), Protect: true}, lua.LString(library.name)); err != nil {
			return nil, err
		}
	}
	state.SetGlobal("obj", value(state, object.Object))
	if err := state.DoString(string(script)); err != nil {
		return nil, err
	}
	table, ok := state.Get(-1).(*lua.LTable)
	if !ok {
		return nil, errors.New("the script returns no table")
	}
	text := func(key string) string { return lua.LVAsString(table.RawGetString(key)) }
	switch code := health.HealthStatusCode(text("status")); code {
	case health.HealthStatusHealthy, health.HealthStatusProgressing, health.HealthStatusDegraded, health.HealthStatusSuspended:
		return &health.HealthStatus{Status: code, Message: text("message")}, nil
	default:
		return nil, fmt.Errorf("the script says %q, which is no health of Argo CD", code)
	}
}

func value(state *lua.LState, of any) lua.LValue {
	switch of := of.(type) {
	case map[string]any:
		table := state.NewTable()
		for key, inner := range of {
			table.RawSetString(key, value(state, inner))
		}
		return table
	case []any:
		table := state.NewTable()
		for _, inner := range of {
			table.Append(value(state, inner))
		}
		return table
	case string:
		return lua.LString(of)
	case bool:
		return lua.LBool(of)
	case int64:
		return lua.LNumber(of)
	case float64:
		return lua.LNumber(of)
	default:
		return lua.LNil
	}
}
