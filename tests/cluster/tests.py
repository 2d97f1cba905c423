"""Tests of what needs no cluster: `python3 tests/cluster/tests.py`. The self-test runs them first."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import signal
import subprocess
import sys
import tarfile
import tempfile
import unittest
from typing import Any

sys.dont_write_bytecode = True

import components
import down
import images
import processes
import talk
import volumes
from layout import LONGEST_FOLDER, Layout


class Processes(unittest.TestCase):
    def setUp(self) -> None:
        self.child = subprocess.Popen(["sleep", "600"])
        identity = processes.identify(self.child.pid)
        assert identity is not None
        self.identity = identity

    def tearDown(self) -> None:
        self.child.kill()
        self.child.wait()

    def test_a_number_that_another_process_has_now_is_not_signalled(self) -> None:
        for other in (
            dataclasses.replace(self.identity, started=self.identity.started - 1),
            dataclasses.replace(self.identity, boot="another boot"),
        ):
            processes.end([other])
            self.assertFalse(processes.send(other, signal.SIGKILL))
        self.assertIsNone(self.child.poll())

    def test_a_process_that_is_meant_is_ended(self) -> None:
        processes.end([self.identity])
        self.assertEqual(self.child.wait(timeout=10), -15)

    def test_one_that_waits_to_be_reaped_is_gone(self) -> None:
        self.child.kill()
        talk.until("the child to end", lambda: processes.identify(self.child.pid) is None, 10)

    def test_a_torn_pid_file_names_no_process(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            layout = Layout(pathlib.Path(folder))
            layout.pids.mkdir()
            (layout.pids / "etcd").write_text('{"pid": 1')
            self.assertEqual(processes.all_recorded(layout), {})

    def test_a_process_is_found_by_neighbouring_arguments_only(self) -> None:
        self.assertIn(self.identity, processes.of_command([b"sleep", b"600"]))
        self.assertNotIn(self.identity, processes.of_command([b"600", b"sleep"]))


class Folders(unittest.TestCase):
    def test_a_folder_with_a_users_files_is_never_removed(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            kept = pathlib.Path(folder) / "thesis.txt"
            kept.touch()
            with self.assertRaises(talk.Failure):
                down.clean(Layout(pathlib.Path(folder)))
            self.assertTrue(kept.exists())

    def test_a_folder_whose_sockets_would_have_too_long_a_path_is_refused(self) -> None:
        Layout(pathlib.Path("/" + "x" * (LONGEST_FOLDER - 1)))
        with self.assertRaises(ValueError):
            Layout(pathlib.Path("/" + "x" * LONGEST_FOLDER))


class Images(unittest.TestCase):
    def test_names_are_completed_as_containerd_does(self) -> None:
        for name, full in {
            "millrace": "docker.io/library/millrace:latest",
            "millrace:dev": "docker.io/library/millrace:dev",
            "team/app:1": "docker.io/team/app:1",
            "example.test/app": "example.test/app:latest",
            "localhost:5000/app": "localhost:5000/app:latest",
        }.items():
            self.assertEqual(images.full_name(name), full)

    def test_an_image_is_written_the_same_twice_and_holds_its_files(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            root = images.RootFs()
            root.files["/etc/motd"] = (b"hello", 0o640)
            root.links["/motd"] = "etc/motd"
            tars = [pathlib.Path(folder) / name for name in ("one", "two")]
            for tar in tars:
                images.write(tar, "app:1", root, ["/app"])
            self.assertEqual(tars[0].read_bytes(), tars[1].read_bytes())
            with tarfile.open(tars[0]) as image:
                layer = max(image.getmembers(), key=lambda member: member.size)
                with tarfile.open(fileobj=io.BytesIO(image.extractfile(layer).read())) as files:
                    self.assertEqual(files.extractfile("etc/motd").read(), b"hello")
                    self.assertEqual(files.getmember("etc/motd").mode, 0o640)
                    self.assertEqual(files.getmember("motd").linkname, "etc/motd")


class Volumes(unittest.TestCase):
    def claim(self, **spec: object) -> dict[str, Any]:
        spec = {"storageClassName": "standard"} | spec
        return {"metadata": {"uid": "u"}, "spec": spec, "status": {"phase": "Pending"}}

    def volume(self, phase: str, policy: str = "Delete", by: str = volumes.PROVISIONER) -> dict[str, Any]:
        annotations = {"pv.kubernetes.io/provisioned-by": by}
        spec = {"persistentVolumeReclaimPolicy": policy}
        return {"metadata": {"name": "pvc-u", "annotations": annotations}, "spec": spec, "status": {"phase": phase}}

    def test_a_claim_of_ours_gets_a_volume_once(self) -> None:
        claim = self.claim()
        self.assertEqual(volumes.decide([claim], []), [volumes.Provide(claim)])
        self.assertEqual(volumes.decide([claim], [self.volume("Available")]), [])

    def test_claims_of_other_classes_or_with_a_volume_are_left_alone(self) -> None:
        others = [self.claim(storageClassName="fast"), self.claim(storageClassName=""), self.claim(volumeName="v")]
        self.assertEqual(volumes.decide(others, []), [])

    def test_only_a_released_volume_of_ours_that_may_go_is_discarded(self) -> None:
        released = self.volume("Released")
        kept = [self.volume("Bound"), self.volume("Released", policy="Retain"), self.volume("Released", by="other")]
        self.assertEqual(volumes.decide([], [*kept, released]), [volumes.Discard(released)])

    def test_sizes_are_read_as_kubernetes_does(self) -> None:
        for text, size in {"4Mi": 4 << 20, "1Gi": 1 << 30, "10G": 10**10, "1.5k": 1500, "7": 7}.items():
            self.assertEqual(volumes.size_bytes(text), size)
        with self.assertRaises(ValueError):
            volumes.size_bytes("many")


class Components(unittest.TestCase):
    def test_every_module_pins_its_component(self) -> None:
        for component in components.COMPONENTS.values():
            self.assertRegex(components.version(component), r"^v\d+\.\d+\.\d+$")


class Waiting(unittest.TestCase):
    def test_a_wait_in_vain_tells_the_last_problem(self) -> None:
        def refused() -> bool:
            raise ConnectionRefusedError("refused")

        with self.assertRaisesRegex(talk.TimedOut, "the door.*refused"):
            talk.until("the door", refused, 0.05, every=0.01)


if __name__ == "__main__":
    unittest.main()
