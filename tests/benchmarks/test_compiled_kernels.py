"""The kernels counted in a program that XLA compiled for a GPU."""

import pytest

from benchmarks.compiled_kernels import kernels, kind_of

PROGRAM = """HloModule step

%fused_computation (param_0: f32[100], param_1: bf16[10]) -> f32[10] {
  %param_0 = f32[100]{0} parameter(0)
  %slice.1 = f32[10]{0} slice(%param_0), slice={[3:13]}
  %param_1 = bf16[10]{0} parameter(1)
  %convert.1 = f32[10]{0} convert(%param_1)
  ROOT %add.1 = f32[10]{0} add(%slice.1, %convert.1)
}

%command_buffer (p: f32[100], q: bf16[10]) -> f32[10] {
  %p = f32[100]{0} parameter(0)
  %q = bf16[10]{0} parameter(1)
  ROOT %loop_add_fusion = f32[10]{0} fusion(%p, %q), kind=kLoop, calls=%fused_computation
}

ENTRY %main (a: f32[100], b: bf16[10], c: bf16[2,3,4,4,5], k: bf16[5,1,1,1,5]) -> (f32[10], bf16[2,3,4,4,5]) {
  %a = f32[100]{0} parameter(0)
  %b = bf16[10]{0} parameter(1)
  %c = bf16[2,3,4,4,5]{4,3,2,1,0} parameter(2)
  %k = bf16[5,1,1,1,5]{4,3,2,1,0} parameter(3)
  %call = f32[10]{0} call(%a, %b), to_apply=%command_buffer
  %cudnn-conv.1 = (bf16[2,3,4,4,5]{4,3,2,1,0}, u8[64]{0}) custom-call(%c, %k), custom_call_target="__cudnn$convForward"
  %part = bf16[2,3,4,4,5]{4,3,2,1,0} get-tuple-element(%cudnn-conv.1), index=0
  %copy.7 = bf16[2,3,4,4,5]{3,4,2,1,0} copy(%part)
  ROOT %tuple = (f32[10]{0}, bf16[2,3,4,4,5]{3,4,2,1,0}) tuple(%call, %copy.7)
}
"""


def test_kernels_are_those_that_the_program_starts():
    assert kernels(PROGRAM) == ["loop_add_fusion", "cudnn-conv.1 __cudnn$convForward", "copy.7"]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sm90_xmma_dgrad_implicit_gemm_bf16bf16_bf16f32_f32_nhwckrsc_nhwc", "convolutions"),
        ("cudnn-conv.1 __cudnn$convForward", "convolutions"),
        ("gemm_fusion_dot_113", "products"),
        ("input_reduce_select_fusion_5", "reductions"),
        ("loop_transpose_fusion_1", "transposes"),
        ("loop_select_fusion_32", "element-wise"),
        ("loop_convert_fusion", "element-wise"),
        ("MemcpyD2D", "copies"),
        ("something", "others"),
    ],
)
def test_kind_of_a_kernel_from_its_name(name, kind):
    assert kind_of(name) == kind
