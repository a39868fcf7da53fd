"""Pictures of a world, by OpenGL without a screen: EGL (a graphics card or Mesa), or OSMesa."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes.util import find_library
from importlib import import_module
from typing import Any, Literal

import numpy as np

from reeltok.worlds.push import World, open_mujoco

Backend = Literal["egl", "osmesa", "cgl", "glfw"]
_DEVICE = 0x313F  # EGL_PLATFORM_DEVICE_EXT


def find_backend() -> Backend:
    """How pictures can be made here: as MUJOCO_GL says, else EGL, else OSMesa.

    ImportError with the packages to install where neither is there.
    """
    asked = os.environ.get("MUJOCO_GL", "").lower()
    if asked in ("egl", "osmesa", "cgl", "glfw"):
        return asked  # type: ignore[return-value]
    if not sys.platform.startswith("linux"):
        return "cgl" if sys.platform == "darwin" else "glfw"
    if _egl_works():
        return "egl"
    if find_library("OSMesa"):
        return "osmesa"
    raise ImportError(
        "pictures of a simulated world need EGL or OSMesa, and neither is here: install libosmesa6 "
        "(apt-get install libosmesa6), or libegl1 with a driver"
    )


def _egl_works() -> bool:
    """Whether EGL opens a display without a screen."""
    try:
        egl = ctypes.CDLL(find_library("EGL") or "libEGL.so.1")
        find = egl.eglGetProcAddress
        find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p]
        query, display = find(b"eglQueryDevicesEXT"), find(b"eglGetPlatformDisplayEXT")
    except (OSError, AttributeError):
        return False
    if not query or not display:
        return False
    pointer, number = ctypes.c_void_p, ctypes.c_int
    devices, count = (pointer * 16)(), number(0)
    ask = ctypes.CFUNCTYPE(ctypes.c_uint, number, ctypes.POINTER(pointer), ctypes.POINTER(number))
    take = ctypes.CFUNCTYPE(pointer, ctypes.c_uint, pointer, pointer)
    if not ask(query)(16, devices, ctypes.byref(count)):
        return False
    egl.eglInitialize.argtypes = [pointer, pointer, pointer]
    shown = (take(display)(_DEVICE, devices[at], None) for at in range(count.value))
    return any(handle and egl.eglInitialize(handle, None, None) for handle in shown)


class Camera:
    """Takes pictures "side side 3" of worlds, one after another; a context manager.

    Of one thread and process: OpenGL's context belongs to it. ImportError where nothing is drawn.
    """

    def __init__(self, side: int = 64) -> None:
        self.mujoco: Any = open_mujoco()
        self.side = side
        self.world: World | None = None
        self.backend = find_backend()
        self._gl = open_context(self.backend, side)
        self._scene: Any = None
        self._context: Any = None
        with drawn_by(self.backend):  # some that open cannot draw, as GLFW without a display
            self._gl.make_current()
            self._look_into(self.mujoco.MjModel.from_xml_string("<mujoco/>"))

    def __call__(self, world: World) -> np.ndarray:
        """The picture of the world as it stands, uint8."""
        with drawn_by(self.backend):
            return self._draw(world)

    def _draw(self, world: World) -> np.ndarray:
        self._gl.make_current()  # another camera of this thread may have been used since
        if world is not self.world:
            self._look_at(world)
        mujoco, rect = self.mujoco, self.mujoco.MjrRect(0, 0, self.side, self.side)
        mujoco.mj_kinematics(world.model, world.data)  # mj_step leaves shapes a step behind
        kinds = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(
            world.model, world.data, self._option, None, self._view, kinds, self._scene
        )
        mujoco.mjr_render(rect, self._scene, self._context)
        picture = np.empty((self.side, self.side, 3), np.uint8)
        mujoco.mjr_readPixels(picture, None, rect, self._context)
        return picture[::-1].copy()

    def _look_at(self, world: World) -> None:
        mujoco = self.mujoco
        self._look_into(world.model)
        self.world = world
        self._scene = mujoco.MjvScene(model=world.model, maxgeom=200)
        self._option, self._view = mujoco.MjvOption(), mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED.value
        self._view.fixedcamid = 0

    def _look_into(self, model: Any) -> None:
        """Load the shapes of a model."""
        mujoco = self.mujoco
        if self._context is not None:
            self._context.free()
            self._context = None
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)

    def close(self) -> None:
        """Free what OpenGL holds."""
        if self._context is not None:
            self._gl.make_current()
            self._context.free()
        self._context = self._scene = self.world = None
        self._gl.free()

    def __enter__(self) -> "Camera":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def open_context(backend: Backend, side: int) -> Any:
    """OpenGL's context of a backend. ImportError with the packages where it does not open."""
    with drawn_by(backend):
        return import_module(f"mujoco.{backend}").GLContext(side, side)


@contextmanager
def drawn_by(backend: Backend) -> Iterator[None]:
    """What fails inside is an ImportError with the packages of a backend, which draws nothing."""
    packages = {
        "egl": "install libegl1 with a driver",
        "osmesa": "install libosmesa6",
        "glfw": "it needs a display; without one install libosmesa6 and set MUJOCO_GL=osmesa",
    }.get(backend, f"install {backend}")
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # PyOpenGL raises many kinds, and MuJoCo its FatalError
        said = " ".join(str(error).split())
        raise ImportError(
            f"pictures of a simulated world: {backend} does not draw ({said}): {packages}"
        ) from error
